# escape=`
# check=skip=StageNameCasing,FromAsCasing;error=true
FROM a
RUN echo a `

   # a comment within
   && echo b\
COPY c:\x `
     d:\
